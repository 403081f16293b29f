"""The fields of a training configuration, by the part of a run that they govern.

The line under a field is its documentation: `docs/config.md` is made from it. Other vocabularies stand in `compat/`.
"""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from groupwise.config.guards import GuardSetting, defaults

LARGEST = 2**53
"""Up to here every whole number is a float too, and a file of JSON."""

Count = Annotated[int, Field(ge=1, le=LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]

Interval = Literal["no", "steps", "epoch"]


def branches_of(annotation: Any) -> list[Any]:
    """The types that a value may have, without their bounds and without None."""
    if get_origin(annotation) is Annotated:
        return branches_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [branch for part in get_args(annotation) if part is not NoneType for branch in branches_of(part)]
    return [annotation]


class Section(BaseModel):
    """A part of the configuration: strict about keys, finite numbers, read-only."""

    # Most sections are only parts of a whole: the validator of one on its own is built when it is first used.
    model_config = ConfigDict(
        defer_build=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`learning_rate: true` is a slip, and not a learning rate of 1."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = branches_of(cls.model_fields[info.field_name].annotation)
            if not (bool in kinds or Any in kinds) and (int in kinds or float in kinds):
                raise PydanticCustomError("float_type" if float in kinds else "int_type", "true or false")
        return value


class RunFields(Section):
    """The run and its record"""

    output_dir: Annotated[str, Field(min_length=1)] = "runs/grpo"
    """Folder of the run: configuration, metrics, completions, checkpoints and the trained model; `~` is your home."""
    overwrite_output_dir: bool = False
    """Whether a run that `output_dir` holds already is deleted when training starts anew; resuming deletes nothing."""
    conventions: Literal["groupwise", "trl"] = "groupwise"
    """Whose defaults fill what is not set, and whose definitions the numbers of `log_history`, callbacks and trackers
    follow (from-trl.md). The run folder has one definition of each number, whatever stands here."""
    run_name: str | None = None
    """Name of the run on screen and in trackers; null takes the name of the folder."""
    seed: NonNegativeInt = 42
    """Seed of the data order, of every completion and of fresh adapter weights."""
    report_to: list[Literal["wandb", "tensorboard", "trackio"]] = []
    """Trackers that get the metrics too. The run folder is always written."""
    logging_steps: NonNegativeInt = 1
    """Every so many steps screen and trackers show a line; 0 shows none. The run folder has every step."""
    logging_first_step: bool = False
    """Whether the first step is logged too, when `logging_steps` leaves it out."""
    log_completions: bool = False
    """Whether each logged step is followed by a table of its completions, on screen and in wandb."""
    num_completions_to_print: NonNegativeInt | None = None
    """Completions of the table on screen, drawn from those of the step; null shows all. The run folder has all."""
    log_unique_prompts: bool = False
    """Whether the table in wandb holds one completion of each prompt instead of all."""
    log_token_stats_steps: NonNegativeInt = 1
    """Every so many steps the run folder gets log-prob, log-ratio to the reference and advantage of every sampled token
    (run-folder.md), 2 bytes each; 0 is never."""
    save_strategy: Interval = "steps"
    """When a checkpoint is written: every `save_steps` steps, at the end of each epoch, or never."""
    save_steps: Count = 500
    """Steps between checkpoints. The last step gets one too, so that a longer run can go on from it."""
    save_total_limit: Count | None = None
    """Checkpoints that are kept, the oldest going first and the best one never; null keeps all."""
    load_best_model_at_end: bool = False
    """Whether each new best evaluation gets a checkpoint, and `final/` the weights of the best of all."""
    metric_for_best_model: str | None = None
    """Number of the evaluation that ranks the checkpoints; null takes `eval_reward`."""
    greater_is_better: bool | None = None
    """Whether more of it is better; null is yes."""
    eval_strategy: Interval = "no"
    """When the evaluation split is scored: every `eval_steps` steps, at the end of each epoch, or never."""
    eval_steps: Count | None = None
    """Steps between evaluations. Setting it alone sets `eval_strategy` to "steps". Each is scored twice: sampled as in
    training, and greedy (the likeliest token each time, one completion a problem), which has no luck in it."""
    eval_greedy: bool = True
    """Whether an evaluation scores greedy completions too. Reward functions that compare the completions of a prompt
    get one at a time there; they make no greedy reward."""
    eval_on_start: bool = False
    """Whether to evaluate once before the first step, so that the curve starts at the untrained model."""
    num_eval_problems: Count | None = None
    """Problems of the evaluation split that are scored each time; null scores all of them."""
    num_generations_eval: Count | None = None
    """Sampled completions for each evaluation problem; null takes `num_generations`."""
    push_to_hub: bool = False
    """Whether the trained model is uploaded to the Hub when training ends."""
    hub_model_id: str | None = None
    """Repository on the Hub; null takes the name of the run folder."""
    hub_private_repo: bool | None = None
    """Whether a repository that has to be created is private; null takes the account's default."""


class StepFields(Section):
    """The step"""

    prompts_per_step: Count = 8
    """Problems drawn in one step. Times `num_generations`, this is the batch."""
    num_generations: Count = 8
    """G, the completions sampled for each problem: the group that the advantages compare."""
    num_minibatches: Count = 1
    """Parts of whole groups that a rollout is cut into; each part is one optimizer step."""
    num_iterations: Count = 1
    """mu of the algorithm: passes over one rollout, each of `num_minibatches` optimizer steps."""
    micro_batch_tokens: Count | None = None
    """Tokens in one pass of the learner, which bounds its memory and changes no result; null decides by itself."""
    num_train_epochs: Positive = 1.0
    """Passes over the data set. Not used when `max_steps` is set."""
    max_steps: Annotated[int, Field(ge=-1, le=LARGEST)] = -1
    """Steps (rollouts) to train; -1 takes as many as `num_train_epochs` need."""
    shuffle_dataset: bool = True
    """Whether each epoch draws the problems in a new order."""
    drop_incomplete_step: bool = False
    """Whether the problems at the end of an epoch that are too few for a step are left out, so that no step crosses
    epochs. Without it, none is left out, and the number of steps is rounded up."""
    dynamic_sampling: bool = False
    """Whether groups without signal are replaced by drawing more problems (DAPO)."""
    dynamic_sampling_max_draws: Count = 4
    """At most this many times `prompts_per_step` problems are drawn in one step of dynamic sampling."""


class SamplingFields(Section):
    """Prompts and sampling"""

    temperature: Positive = 1.0
    """Divides the logits, in sampling and in every log-probability."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: keep the likeliest tokens that together have this probability; 1 keeps all."""
    top_k: NonNegativeInt = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    min_p: BelowOne = 0.0
    """Keep tokens at least this likely, relative to the likeliest; 0 keeps all."""
    repetition_penalty: Positive = 1.0
    """Divides the positive logits of tokens already seen, and multiplies their negative ones; 1 is off."""
    max_completion_length: Count = 512
    """Tokens after which a completion is cut off."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion and stay in it, besides the end tokens of the model. A text that is a special token
    (`<end_of_turn>`) is an end token itself and no part of the text, unless it closes a tag (`</answer>`)."""
    max_prompt_length: Count | None = None
    """Longest prompt in tokens; null cuts none, and one that does not fit the model's context is an error."""
    overlong_prompts: Literal["truncate", "drop"] = "truncate"
    """What happens to a longer prompt: cut from the left, or its problem left out. Both are counted and reported."""
    system_prompt: str | None = None
    """System message put before every chat prompt that has none."""
    chat_template_kwargs: dict[str, Any] = {}
    """Extra arguments of the chat template."""
    engine: Literal["auto", "native", "transformers"] = "auto"
    """What samples: groupwise's own engine, transformers' `generate` (slow), or the first that can serve the model."""
    max_concurrent_completions: Count | None = None
    """Completions that decode together: more is faster until memory or the machine is full. null: 64, and on a GPU
    as many as its memory allows, up to 512."""


class EnvironmentFields(Section):
    """The environment"""

    max_turns: Count = 8
    """Turns of a completion at most; one that would go on after them is cut off. No environment: one."""
    max_turn_length: Count | None = None
    """Tokens after which a turn is cut off, and the environment answers what there is; null sets no limit but
    `max_completion_length`, which counts the tokens of all turns and of what came back between them."""
    max_observation_length: Count | None = None
    """Characters of a message that comes back at most: of a longer one the policy reads the head and the tail."""
    environment_timeout_s: Positive = 120.0
    """Seconds for one answer of an environment; one that takes longer has failed, and its completion is unscored."""
    tool_timeout_s: Positive = 30.0
    """Seconds for one call of a tool; the policy reads that a longer one has timed out."""
    turn_format: str = "\n{observation}\n"
    """What follows a turn after a prompt of plain text, `{observation}` being what came back. Chats have a template."""

    @field_validator("turn_format")
    @classmethod
    def _has_a_place(cls, turn_format: str) -> str:
        if turn_format.count("{observation}") != 1:
            raise ValueError(f"is {turn_format!r}; it needs {{observation}} once.")
        return turn_format


class ServerFields(Section):
    """The servers"""

    servers: list[str] = []
    """Addresses of vLLM servers that sample (scale.md): a list, `http://host:8000-8003` for several ports, or `@FILE`
    with one a line. Empty: this process samples. A key is read from the variable GROUPWISE_SERVER_KEY."""
    server_kind: Literal["vllm"] = "vllm"
    """What the servers are: stock vLLM. It has run with 0.32; what of older versions has run is in docs/scale.md."""
    sync: Literal["auto", "lora", "weights"] = "auto"
    """What travels to the servers after a step: the adapter, or the weights of the whole model; auto takes the adapter
    where there is one."""
    sync_dir: str | None = None
    """Folder for what travels, which every server sees under the same path; null is `sync` in `output_dir`."""
    request_timeout: Positive = 600.0
    """Seconds for the completions of one prompt; then another server is asked."""
    server_timeout: Positive = 300.0
    """Seconds for a server to take new weights, and to come back where none is left."""
    rollout_lag: NonNegativeInt = 0
    """k: the completions of step s are sampled from the weights after step s - 1 - k, so that servers sample while the
    learner updates. Exact; it needs `servers` and a correction (`mismatch`)."""


class ReferenceFields(Section):
    """Rewards and the reference model"""

    reward_weights: list[float] | None = None
    """Weight of each reward function in the sum; null weighs all with 1."""
    sandbox: Literal["auto", "bubblewrap", "docker", "none"] = "auto"
    """What code that the model wrote runs in: auto is bubblewrap where it works, then Docker (sandbox.md)."""
    run_untrusted_code_without_sandbox: bool = False
    """Whether it may run with your own rights where there is no sandbox. It can read and delete what you can."""
    sync_ref_model: bool = False
    """Whether the reference follows the policy (TR-DPO): ref <- alpha policy + (1 - alpha) ref."""
    ref_model_mixup_alpha: Share = 0.6
    """alpha of that mix."""
    ref_model_sync_steps: Count = 512
    """Steps between two mixes."""
    ref_model_reset_steps: Count | None = None
    """Every so many steps the reference becomes the policy (the outer loop of iterative GRPO); null never resets."""


class BesideFields(Section):
    """Beside the loss"""

    process_rewards: bool = False
    """Process supervision: advantages from the rewards of steps. A plain reward is one step, at the end."""
    overlong_cache: Annotated[float, Field(gt=0, le=1)] | None = None
    """DAPO's soft overlong punishment: over this last share of `max_completion_length` the reward falls by up to 1."""
    kl_target: Positive | None = None
    """KL (nats per token) that `beta` is steered toward after every step; null keeps `beta` as it is."""
    kl_horizon: Positive = 10_000.0
    """Completions after which a KL of 20% or more beside its target has moved `beta` by about 20%."""
    use_adaptive_entropy: bool = False
    """Whether the entropy coefficient adapts (Skywork-OR1), from `entropy_coef`, while the entropy is below target."""
    entropy_target: NonNegative = 0.2
    """Entropy (nats per token) below which the bonus acts and its coefficient rises; above, the coefficient falls."""
    entropy_coef_delta: NonNegative = 0.005
    """What the adaptive coefficient moves by after each optimizer step."""
    entropy_coef_min: NonNegative = 0.0
    """Its lower bound."""
    entropy_coef_max: NonNegative = 1.0
    """Its upper bound."""
    kl_metric_steps: Count | None = None
    """With `beta` 0, measure the KL to the start of training every so many steps; null never does."""


class CurriculumFields(Section):
    """The curriculum"""

    curriculum: Literal["none", "pools", "levels"] = "none"
    """Draw problems by the policy's success rate: pools of easy, learning and hard ones, or one level at a time."""
    curriculum_reward: str | None = None
    """Reward function by which a completion solved its problem or did not; null takes the weighted sum."""
    curriculum_solved_at: float = 1.0
    """A completion solves its problem with this reward or more."""
    curriculum_easy_at: Share = 1.0
    """Pools: at this success rate or more a visit counts as easy."""
    curriculum_hard_at: Share = 0.0
    """Pools: at this success rate or less a visit counts as hard."""
    curriculum_patience: Count = 2
    """Pools: visits in a row that move a problem out of learning."""
    curriculum_margin: Share = 0.2
    """Pools: a visit further than this from the bound moves a problem back to learning."""
    curriculum_easy_weight: Share = 0.1
    """Pools: how often an easy problem is drawn when it comes up; 0 drops it for good."""
    curriculum_hard_weight: Share = 0.25
    """Pools: how often a hard problem is drawn when it comes up; 0 drops it for good."""
    curriculum_window: Count = 32
    """Levels: groups at a level whose mean success rate decides."""
    curriculum_up_at: Share = 0.7
    """Levels: one level up at this success rate or more."""
    curriculum_down_at: Share = 0.2
    """Levels: one level down at this success rate or less."""
    curriculum_review: Share = 0.1
    """Levels: how often a problem of a lower level is drawn when it comes up."""


class OptimizerFields(Section):
    """The optimizer"""

    optim: Literal["adamw", "adamw_fused", "adamw_8bit", "sgd", "adafactor"] = "adamw"
    """Optimizer. Other libraries' spellings of these are understood, in any case."""
    learning_rate: NonNegative | None = None
    """Peak learning rate; null takes 1e-6 for full fine-tuning and 1e-5 for LoRA."""
    lr_scheduler_type: str = "linear"
    """Learning-rate schedule over the optimizer steps, by its name in transformers."""
    lr_scheduler_kwargs: dict[str, Any] = {}
    """Extra arguments of the schedule."""
    warmup_steps: NonNegativeInt = 0
    """Optimizer steps in which the learning rate rises from 0."""
    warmup_ratio: BelowOne = 0.0
    """The same as a share of all optimizer steps; at most one of the two is set."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay; biases and norms are left out."""
    adam_beta1: BelowOne = 0.9
    """Decay of Adam's first moment."""
    adam_beta2: BelowOne = 0.999
    """Decay of Adam's second moment."""
    adam_epsilon: Positive = 1e-8
    """Added to the root of Adam's second moment."""
    max_grad_norm: NonNegative = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""


class GuardFields(Section):
    """The guards"""

    guards: dict[str, GuardSetting] = Field(default_factory=defaults, json_schema_extra={"page": "guards.md"})
    """What watches the run and what it does about what it sees: `{kl: {action: stop, threshold: 10}, entropy: off}`."""


class ModelFields(Section):
    """The model and the machine"""

    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the matrix products. Trained weights are float32 always; auto takes bfloat16 where it is fast."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, more time."""
    attn_implementation: str | None = None
    """Attention of the plain path, by its name in transformers ("eager", "sdpa", ...); null takes its default."""
    trust_remote_code: bool = False
    """Whether code that comes with a model is run."""
    shard: Literal["none", "full"] = "none"
    """What several ranks divide among them: nothing, so that each holds everything, or the float32 weights, gradients
    and optimizer state of a full fine-tuning (scale.md)."""
    use_cpu: bool = False
    """Whether to stay on the CPU although the machine has a GPU."""
    model_init_kwargs: dict[str, Any] = {}
    """Extra arguments of `from_pretrained` for a model given by name."""


SECTIONS: tuple[type[Section], ...] = (
    RunFields,
    StepFields,
    SamplingFields,
    EnvironmentFields,
    ServerFields,
    ReferenceFields,
    BesideFields,
    CurriculumFields,
    OptimizerFields,
    GuardFields,
    ModelFields,
)
"""In the order in which documentation and records list them."""
