"""A finished job's model in the forms that other tools load, with a model card, and where it goes.

    README.md      the model card
    bundle.json    job, base model, forms, and sizes and hashes of all files
    adapter/       PEFT's LoRA adapter
    merged/        base and adapter in one, for transformers
    ctranslate2/TYPE/    for faster-whisper
    ggml/ggml-model.bin  for whisper.cpp

May import: lorajob.{decoding,reporting,whisper,speech,corpora,storage,job,spec,languages,errors}.
"""
