"""What is done to the pages after Sphinx wrote them."""
