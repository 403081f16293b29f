cd "$(dirname "$0")"
export PYTHONPATH=/tmp/site:$PWD:$PWD/tests HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
nvidia-smi -L
S=$SECONDS
OPS_DEVICE=cuda timeout 120 python3 -m pytest tests/equal/test_gpu_ops.py -q -c /dev/null --rootdir . --noconftest -p no:cacheprovider 2>&1 | grep -v "^  *[|^]" | tail -40 | cut -c1-300
echo "ops $((SECONDS-S)) s"; S=$SECONDS
timeout 110 python3 bench/gpu.py --only rollout bandwidth --out $OUT/a.jsonl 2>&1 | tail -30 | cut -c1-500
echo "rollout $((SECONDS-S)) s"; S=$SECONDS
timeout 80 python3 bench/gpu_profile.py 2>&1 | tail -30 | cut -c1-200
echo "profile $((SECONDS-S)) s"; S=$SECONDS
timeout 90 python3 bench/gpu.py --only learner --out $OUT/a.jsonl 2>&1 | tail -30 | cut -c1-700
echo "learner $((SECONDS-S)) s"; S=$SECONDS
timeout 100 python3 -m pytest tests/gpu -q -c /dev/null --rootdir . --noconftest -p no:cacheprovider -k "cuda and (llama or qwen3) and float32 or cuda and llama and bfloat16" 2>&1 | grep -E "^E  |passed|failed|FAILED" | tail -20 | cut -c1-300
echo "checks $((SECONDS-S)) s"
