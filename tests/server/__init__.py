"""Tests of server/: a real `lorajob serve`, as OpenAI's client uses it."""
