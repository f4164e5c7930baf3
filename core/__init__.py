"""One VICReg run: configuration, data, views, model, loss, training. Needs torch, neither ray nor mlflow; faiss on a GPU."""
