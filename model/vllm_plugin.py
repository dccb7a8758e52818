"""What vLLM is told when it starts (entry point group `vllm.general_plugins`). Nothing of vLLM is imported."""


def register() -> None:
    """Make TEOChat's image processor known in every process of vLLM. May be called again."""
    from geotempo.model import teochat_images

    teochat_images.register()
