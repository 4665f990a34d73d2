"""Many recordings become one table; a run can be interrupted and resumed."""
