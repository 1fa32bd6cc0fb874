#!/bin/sh
# Databases of iDDS and Airflow, each with an owner of its own. PostgreSQL's image runs this once, on an empty volume.
set -eu
psql --set ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv idds_password IDDS_DB_PASSWORD
\getenv airflow_password AIRFLOW_DB_PASSWORD
CREATE ROLE idds LOGIN PASSWORD :'idds_password';
CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE DATABASE idds OWNER idds;
CREATE DATABASE airflow OWNER airflow;
REVOKE ALL ON DATABASE idds, airflow FROM PUBLIC;
SQL
