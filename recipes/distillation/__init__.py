"""The networks this project ships: distilled from EfficientAT's mn04 on openly licensed recordings without labels."""
