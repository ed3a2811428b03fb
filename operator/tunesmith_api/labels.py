"""Labels on everything that Tunesmith creates; people and tools select by them."""

LABEL_JOB = "tunesmith.dev/job"
LABEL_JOB_UID = "tunesmith.dev/job-uid"
LABEL_STAGE = "tunesmith.dev/stage"
LABEL_ATTEMPT = "tunesmith.dev/attempt"
LABEL_MODEL = "tunesmith.dev/model"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "tunesmith"
