"""The vocabularies of other libraries: TRL and transformers keys, translated into fields of the configuration."""
