# Everything that README.md runs, installed from the lock, for a user who is not root (docs/start.md):
#   docker build --tag recommender .
#   docker run --rm recommender                                                            # make repro test
#   docker run --rm --publish 127.0.0.1:8501:8501 recommender make repro explore           # http://127.0.0.1:8501
FROM debian:trixie-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/bash --uid 1000 dev

USER dev
RUN mkdir /home/dev/recommender
WORKDIR /home/dev/recommender
# Outside of the clone, so that a folder mounted in its place (.devcontainer/) finds the packages too.
ENV VENV=/home/dev/venv
ENV PATH=$VENV/bin:$PATH
COPY --chown=dev:dev Makefile requirements.lock requirements-explore.lock ./
RUN make $VENV/.installed-explore PIP_NO_CACHE_DIR=1

COPY --chown=dev:dev . .
# Of the container: nothing outside reaches it unless a port is published.
ENV STREAMLIT_SERVER_ADDRESS=0.0.0.0
EXPOSE 8501
CMD ["make", "repro", "test"]
