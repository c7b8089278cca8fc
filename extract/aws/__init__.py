"""Entry points on AWS: increments in a Lambda function, the backfill in a Batch job; `deploy/aws` deploys them."""
