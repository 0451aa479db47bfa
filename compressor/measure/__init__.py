"""What a network does on images: scores, hard images, predictions, paired statistics, examples to look at."""
