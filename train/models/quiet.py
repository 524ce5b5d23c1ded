"""What libraries tell their developers is kept from the terminal of a steward, who cannot act on it."""

import logging
import warnings


def quieten() -> None:
    """Call it before bitsandbytes is imported, which speaks at once.

    bitsandbytes 0.50 advises installing ``kernels`` on CPUs with AVX512-BF16, which would reach for a hub; peft 0.21
    still asks transformers 5.23 for ``is_gradient_checkpointing``.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(is_gradient|gradient)_checkpointing", category=FutureWarning)
