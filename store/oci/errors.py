"""What can go wrong with images; each error says what the caller can do about it."""

from __future__ import annotations

from store.errors import StoreError


class BadReference(StoreError):
    """Text that names no image. Type it again."""


class BadImage(StoreError):
    """What a registry or an archive gave is not what it must be. Nothing of it is visible; ask for another image."""


class BadSettings(StoreError):
    """The file of registries, or Docker's, cannot be used. Correct it."""


class RegistryError(StoreError):
    """A registry could not be reached, or refused. Try again, or ask whoever runs it."""


class NotInRegistry(RegistryError):
    """The registry has no such image, or hides it from us. Check the name, or log in."""


class Denied(RegistryError):
    """The registry wants to know who we are, or does not let us. 'monofs login'."""
