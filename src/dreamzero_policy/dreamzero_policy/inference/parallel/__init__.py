"""One model on several processes, a GPU each, for a model that one GPU cannot hold or is too slow for.

Reading order: `crew.py` (who does what, and how they meet), `guidance.py` (a branch of guidance a process),
`tensor_split.py` (a share of heads and of the feed-forward a process), `lockstep.py` (rank 0 leads, the others follow),
`watch.py` (a process that dies ends all), `loading.py` (each reads its own part of a checkpoint).

The cut is the transformer. Rank 0 has everything else: sessions, encoders, autoencoder, sampler, sockets. Its
transformer has the verbs it always had, so whatever uses one is unchanged. The others hold their parts of the
transformer and of every past, and do what rank 0 says. It says it once a verb: names and numbers between hosts, tensors
between devices, none of them larger than the latents of a block or the text of a prompt. Nobody waits for a device to
learn what comes next.
"""
