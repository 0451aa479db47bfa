"""Any file that classifies: opening, building, calibrating and proving it."""
