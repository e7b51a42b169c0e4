"""Known vulnerabilities of the packages in an image, from files of the site, without a network."""
