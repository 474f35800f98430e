"""The REST service and the batch job: images and vectors in, answers out. Imports `backbone`, never `training`."""
