"""The paper's tables and Fig. 3: the runs that each one needs, their execution, and the layout of the results."""
