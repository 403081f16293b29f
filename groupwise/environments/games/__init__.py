"""Games that come with groupwise, one a file."""
