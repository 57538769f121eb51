"""Direct preference optimisation while an emotion is kept down.

    accelerate launch recipes/dpo.py --config configs/dpo.yaml --learning_rate 1e-5

Every option of TRL's `ScriptArguments` and `DatasetMixtureConfig`, `DPOConfig` and `ModelConfig`, and of emoreg's
`RegularizerConfig`, in the YAML file or on the command line, which wins. The hinge acts on the chosen completions;
`--scope both:completion` takes in the rejected ones.
"""

from collections.abc import Sequence

from datasets import load_dataset
from trl import (
    DatasetMixtureConfig,
    DPOConfig,
    DPOTrainer,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_dataset,
    get_peft_config,
    get_quantization_config,
)

from emoreg import RegularizerCallback
from emoreg.training import RegularizerConfig


def main(arguments: Sequence[str] | None = None) -> DPOTrainer:
    """Parse, train, save."""
    groups = [ScriptArguments, DatasetMixtureConfig, DPOConfig, ModelConfig, RegularizerConfig]
    parser = TrlParser(groups)  # pyright: ignore[reportArgumentType] - it takes any dataclass
    script, mixture, training, model, regularizer = parser.parse_args_and_config(arguments)

    # First: a wrong name or file should fail before a model is loaded.
    reg = regularizer.build(model.model_name_or_path)
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(training.model_init_kwargs or {}),
    }
    if mixture.datasets:
        data = get_dataset(mixture)
    else:
        data = load_dataset(script.dataset_name, name=script.dataset_config, streaming=script.dataset_streaming)
    trainer = DPOTrainer(
        model=model.model_name_or_path,
        args=training,
        train_dataset=data[script.dataset_train_split],
        eval_dataset=data[script.dataset_test_split] if training.eval_strategy != "no" else None,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )
    trainer.add_callback(RegularizerCallback(trainer, reg))
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)
    return trainer


if __name__ == "__main__":
    main()
