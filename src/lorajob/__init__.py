"""lorajob: fine-tune Whisper with LoRA for many languages.

This package is the library: speech and files. It does not use Celery, Redis or click;
`lorajob.worker`, `lorajob.tasks` and `lorajob.cli` build the service on top of it.

May import: what stands below the importing file in docs/how-it-works.md. Stages never import each
other.
"""

__version__ = "0.1.0"
