"""The portal: pages on which a logged-in browser sees and changes its user's sessions."""
