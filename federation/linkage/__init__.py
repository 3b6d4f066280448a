"""Linkage: persons known to two holders, joined at a helper that learns neither list.

Pure functions over numpy blocks, without files or network. The left holder's people are those of
the study; the right holder adds columns; the helper matches pseudonyms whose key it lacks.

    forms        identifiers in one spelling, as blocks of 16 bytes
    keys         key agreement of the three parties, signed by their roster identities
    pseudonyms   blocks to pseudonyms, row numbers to tokens, tokens to masks
    streams      the messages of the two holders
    matching     the helper's part
    canaries     made-up people that expose a helper which drops or mixes matches
    cascade      linkage by composite keys, where no common identifier exists
    sealing      sealed chunks from one party to another through a hub that cannot read them
    corrections  estimates corrected for false links
"""
