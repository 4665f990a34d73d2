"""Options that make a training run as small as it can be."""

TINY = [
    "--model.network_config={width: 0.0625}",
    "--data.workers=0",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.accelerator=cpu",
]
