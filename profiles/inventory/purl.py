"""Package URLs: the names of packages that scanners and databases share (github.com/package-url/purl-spec)."""

from __future__ import annotations

from urllib.parse import quote

from profiles.inventory.model import DISTRIBUTION_KINDS, ImageOrigin, InstalledPackage, OperatingSystem, PackageKind


def package_url(package: InstalledPackage, system: OperatingSystem) -> str:
    """Return the package's URL. For distributions it has the qualifiers that scanners match on."""
    name, version = _encode(package.name), package.version
    if package.kind is PackageKind.NPM:
        scope, slash, rest = package.name.partition("/")
        name = f"{quote(scope, safe='')}/{_encode(rest)}" if slash else name
    if package.kind is PackageKind.FEATURE:
        return _feature_url(package)
    if package.kind not in DISTRIBUTION_KINDS:
        return f"pkg:{package.kind.value}/{name}@{_encode(version)}"
    release = "-".join(filter(None, (system.id, system.version or system.suite)))
    qualifiers = {"arch": package.architecture, "distro": release, "upstream": _upstream(package)}
    if package.kind is PackageKind.RPM and ":" in version:
        qualifiers["epoch"], _, version = version.partition(":")
    text = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(qualifiers.items()) if value)
    namespace = f"{_encode(system.id)}/" if system.id else ""
    return f"pkg:{package.kind.value}/{namespace}{name}@{_encode(version)}{'?' if text else ''}{text}"


def _feature_url(package: InstalledPackage) -> str:
    """Return the URL of a feature: an artefact of its registry, or something of the repository's own."""
    name = _encode(package.name.rpartition("/")[2])
    tag = f"tag={quote(package.version, safe='')}" if package.version else ""
    if package.name.startswith("."):
        checksum = f"checksum={quote(package.digest, safe='')}" if package.digest else ""
        version = f"@{_encode(package.version)}" if package.version else ""
        return f"pkg:generic/{name}{version}{'?' if checksum else ''}{checksum}"
    version = f"@{quote(package.digest, safe='')}" if package.digest else ""
    qualifiers = "&".join(filter(None, (f"repository_url={quote(package.name, safe='')}", tag)))
    return f"pkg:oci/{name}{version}?{qualifiers}"


def _upstream(package: InstalledPackage) -> str:
    """Return the source package as scanners write it; empty if it has the package's own name and version."""
    if package.kind is PackageKind.RPM:
        return f"{package.source}-{package.source_version}.src.rpm"
    if (package.source, package.source_version) == (package.name, package.version):
        return ""
    same = package.source_version == package.version
    return package.source if same else f"{package.source}@{package.source_version}"


def image_url(origin: ImageOrigin) -> str:
    """Return the URL of the image itself."""
    return f"pkg:generic/{_encode(origin.name)}@{_encode(origin.version)}"


def _encode(text: str) -> str:
    return quote(text, safe=":")
