"""The operator: kopf brings events in, one loop plans, one writer carries decisions out. It never touches a pixel."""
