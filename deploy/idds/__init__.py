"""What installs, configures and runs an iDDS 2.6.21: for the test stack and for docker-compose.yml.

Runs with the standard library and, except for ``install``, with the packages of ``requirements.txt``; nothing of
airflow-provider-panda is needed. ``python -m deploy.idds --help`` lists the commands.
"""
