"""The form that makes a bearer token."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django import forms
from django.contrib.auth import get_user_model
from django.utils import timezone

from jobs.credentials import MadeToken, make_token
from jobs.models import GRANTABLE, Scope

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    UserField = forms.ModelChoiceField[User]
else:
    UserField = forms.ModelChoiceField  # at run time Django's class takes no type parameters


class TokenForm(forms.Form):
    """Whose token, and what for.

    Args:
        asker: who fills it in: superusers make tokens for everybody, others for themselves.
    """

    user = UserField(queryset=None)
    name = forms.CharField(max_length=100, help_text="Where it is used.")
    scopes = forms.MultipleChoiceField(
        choices=[(each.value, each.value) for each in GRANTABLE],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None: all that the user may do.",
    )
    days = forms.IntegerField(
        min_value=1,
        max_value=3650,
        required=False,
        help_text="How long it is good; if left empty, until it is revoked.",
    )

    def __init__(self, *args: object, asker: User, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # passed on as they came
        users = get_user_model().objects.filter(is_active=True)
        field: UserField = self.fields["user"]  # type: ignore[assignment]  # declared above
        field.queryset = users if asker.is_superuser else users.filter(pk=asker.pk)
        field.initial = asker.pk

    def make(self) -> MadeToken:
        """Make the token."""
        asked = self.cleaned_data
        return make_token(
            asked["user"],
            asked["name"],
            scopes=[Scope(each) for each in asked["scopes"]],
            expires_at=timezone.now() + timedelta(days=asked["days"]) if asked["days"] else None,
        )
