# Targets around a trial: a throw-away cluster, images, the demo. Included by the Makefile.
# CLUSTER=auto|native|kind|current, REGISTRY=… for current; see deploy/README.md.
DEPLOY := $(PY) -m deploy

.PHONY: cluster clean-cluster images demo demo-rollout clean-demo
cluster: .venv/.stamp-demo ## Bring up a throw-away Kubernetes (CLUSTER=auto|native|kind|current)
	@$(DEPLOY) up

clean-cluster: .venv/.stamp-demo ## Remove the throw-away cluster; caches stay
	@$(DEPLOY) down

images: .venv/.stamp-demo ## Build the images and push them to the cluster's registry
	@$(DEPLOY) images

demo: .venv/.stamp-demo ## Fine-tune, serve and roll out a small model on a throw-away cluster, from nothing
	@$(DEPLOY) demo

demo-rollout: .venv/.stamp-demo ## The demo's second half again: a spoiled model is offered and refused
	@$(DEPLOY) demo-rollout

clean-demo: .venv/.stamp-demo ## Remove the demo and its cluster (CACHES=1: also the caches)
	@$(DEPLOY) clean-demo $(if $(CACHES),--caches)
