"""What a person looks at after training: the page of a run, and its pictures."""
