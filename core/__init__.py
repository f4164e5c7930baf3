"""One VICReg run: configuration, data, views, model, loss, training. Needs torch and faiss, neither ray nor mlflow."""
