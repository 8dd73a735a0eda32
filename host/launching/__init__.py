"""`systolora launch`: somebody's training script, unchanged, with the offload put in where its optimizer is made."""
