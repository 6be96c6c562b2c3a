"""A model as regions: the mark that ends one, what each computes and from what, and checks of all that."""
