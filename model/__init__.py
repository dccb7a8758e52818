"""What the model is: types, answer grammar, prompts, composition, masks. No training, no serving."""
