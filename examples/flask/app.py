"""Shows one row of a PostgreSQL table, read with credentials that Vault made for this deploy.

All that is secret comes from the Kubernetes Secret flask-db, as environment variables.
"""

import os
import signal
import sys

import flask
import psycopg2

app = flask.Flask(__name__)


def connect():
    return psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=3)


@app.get("/")
def page():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT text, current_user FROM greetings ORDER BY id LIMIT 1")
        text, user = cursor.fetchone()
    lines = [
        os.environ.get("TITLE", "flask-demo"),
        f"row:     {text}",
        f"read as: {user}",
        f"api key: {len(os.environ.get('API_KEY', ''))} characters",
    ]
    return flask.Response("\n".join(lines) + "\n", mimetype="text/plain")


@app.get("/healthz")
def healthz():
    """The process lives. It says nothing about the database: restarting would not mend that."""
    return "ok\n"


@app.get("/readyz")
def readyz():
    """The credentials work, so this pod may serve."""
    try:
        connect().close()
    except psycopg2.Error as error:
        print(f"the database refuses us: {type(error).__name__}", file=sys.stderr, flush=True)
        return "the database refuses us\n", 503
    return "ok\n"


if __name__ == "__main__":
    # As process 1 Python ignores SIGTERM unless told otherwise.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app.run(host="0.0.0.0", port=8080, threaded=True)
