#!/bin/sh
# Runs once, when the database is made: the roles of clients, the role of the server with no more rights than it needs,
# and a publication to add tables to.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$REALTIME_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --file /docker-entrypoint-initdb.d/role.psql
