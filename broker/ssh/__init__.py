"""OpenSSH's formats: keys, certificates, certificate authorities and host names."""
