"""Speed against plain references in the same run."""
