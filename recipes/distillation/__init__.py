"""The networks this project ships: taught by EfficientAT's mn04 on openly licensed recordings without labels."""
