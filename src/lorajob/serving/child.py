"""The process of one model: `python -m lorajob.serving.child MODEL`, MODEL as JSON.

It reads an Instruction from each line of standard input, and writes an Answer to each line of
standard output. It ends when standard input does, so it never outlives its server.
"""

import os
import sys
import threading
from pathlib import Path
from typing import TextIO

from lorajob.cores import share_cpu
from lorajob.errors import LorajobError, ModelError, first_line, says_out_of_memory
from lorajob.serving.models import Answer, Failure, Instruction, Ready, ServedModel


class AnswerPipe:
    """Writes answers to the server, from any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def say(self, answer: Answer) -> None:
        """Write one answer. If the server has ended, end this process."""
        text = answer.model_dump_json(exclude_defaults=True)
        try:
            with self._lock:
                self._stream.write(text + "\n")
                self._stream.flush()
        except OSError:
            os._exit(0)


def main(model: str) -> int:
    """Load the model and answer requests until standard input ends."""
    # Libraries may print to standard output, which must hold only answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    line = AnswerPipe(answers)
    try:
        _serve(ServedModel.model_validate_json(model), line)
    except LorajobError as error:
        line.say(Answer(failure=Failure(kind=error.kind, message=first_line(error))))
        return 1
    except RuntimeError as error:
        kind = "memory" if says_out_of_memory(error) else "model"
        line.say(Answer(failure=Failure(kind=kind, message=first_line(error))))
        return 1
    return 0


def _serve(model: ServedModel, line: AnswerPipe) -> None:
    from lorajob import logs

    logs.configure()
    check_files(model)
    from lorajob.decoding.config import DecodeConfig, read_config, usual_config
    from lorajob.decoding.fast import FastDecoder
    from lorajob.serving.engine import Engine
    from lorajob.spec import JobSpec

    config = read_config(model.folder)
    if config is None and model.spec is not None:
        config = usual_config(JobSpec.load(model.spec))
    decoder = FastDecoder(model.folder, config or DecodeConfig(language=model.language or "en"))
    engine = Engine(decoder, model.language is None, line.say)
    device = "torch" if decoder.engine is None else decoder.engine.device
    ready = Ready(device=device, batch_windows=engine.batch_windows, bytes=resident_bytes())
    line.say(Answer(ready=ready))
    for text in sys.stdin:
        order = Instruction.model_validate_json(text)
        if order.request is not None:
            engine.submit(order.request)
        if order.cancel:
            engine.cancel(order.cancel)


def check_files(model: ServedModel) -> None:
    """Raise ModelError if a file is missing or has another hash than the job's manifest states."""
    from lorajob.storage.hashes import file_hash

    for name, wanted in model.sha256.items():
        path = model.folder / name
        if not path.is_file():
            raise ModelError(f"{model.name}: {name} is missing; the model is not served")
        if file_hash(path) != wanted:
            raise ModelError(
                f"{model.name}: {name} was altered after the job had finished; the model is not "
                "served"
            )


def resident_bytes() -> int:
    """The memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    # Must come before the decoder is loaded.
    share_cpu(os.environ)
    code = main(sys.argv[1])
    sys.stdout.flush()
    # Threads may still decode for clients that have left.
    os._exit(code)
