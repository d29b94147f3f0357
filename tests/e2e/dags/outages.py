"""What is away for a while: the triggerer, Redis."""

from locked_work import exclusive

exclusive("without_triggerer", claim_timeout=600)
exclusive("without_redis", claim_timeout=600)
