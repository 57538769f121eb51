"""The texts that commands read: from files, or the ones that emoreg ships."""


def texts_for(corpus, neutral, tokenizer, text_field, emotion_field="emotion", group_field=None, trait_fields=()):
    """Labelled and neutral texts, from files, or the ones that emoreg ships."""
    from emoreg.corpus import read_corpus, read_texts, shipped_corpus, shipped_neutral

    if corpus is None:
        labelled = shipped_corpus()
    else:
        labelled = read_corpus(corpus, text_field, emotion_field, group_field, trait_fields, tokenizer)
    return labelled, shipped_neutral() if neutral is None else read_texts(neutral, text_field, tokenizer)
