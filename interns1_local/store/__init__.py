"""Where models live on disk: names, Modelfiles, manifests, blobs, and how a model comes into the store."""
