"""The paper's tables and Fig. 3: which runs each one needs, how they are run, and how the results are laid out."""
