"""Debian and RPM packages of Berth, with units, accounts, configuration and manual pages."""
