"""The operator: watches FineTuneJobs and ModelVersions and makes the cluster match them."""
