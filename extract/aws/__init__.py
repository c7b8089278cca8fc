"""The extractor on AWS: increments in a Lambda, the backfill in a Batch job; `deploy/aws` deploys them."""
