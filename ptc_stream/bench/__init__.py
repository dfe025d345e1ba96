"""Speed, each figure beside a reference and a physical limit that are measured in the same run."""
