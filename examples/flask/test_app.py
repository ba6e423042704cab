"""Tests of the app, run in its image by the pipeline: `python - < test_app.py` in the app's folder."""

import os
import unittest
from unittest import mock

os.environ["TITLE"] = "The title"

import psycopg2

import app


class Pages(unittest.TestCase):
    def setUp(self):
        self.client = app.app.test_client()

    def test_the_page_shows_the_row_and_who_read_it(self):
        database = mock.MagicMock()
        cursor = database.__enter__.return_value.cursor.return_value.__enter__.return_value
        cursor.fetchone.return_value = ("a greeting", "v-user")
        with mock.patch.object(app, "connect", return_value=database):
            text = self.client.get("/").get_data(as_text=True)
        for part in ("The title", "a greeting", "v-user"):
            self.assertIn(part, text)

    def test_it_is_ready_only_with_a_database(self):
        with mock.patch.object(app, "connect", return_value=mock.MagicMock()):
            self.assertEqual(self.client.get("/readyz").status_code, 200)
        refused = psycopg2.OperationalError("password of v-user is wrong")
        with mock.patch.object(app, "connect", side_effect=refused):
            answer = self.client.get("/readyz")
        self.assertEqual(answer.status_code, 503)
        self.assertNotIn("v-user", answer.get_data(as_text=True))

    def test_it_is_alive_without_a_database(self):
        self.assertEqual(self.client.get("/healthz").status_code, 200)


unittest.main()
