"""Claims about distillation."""
