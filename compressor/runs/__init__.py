"""What a run folder holds: its files, the record, the stages done, the manifest."""
