from aggregator.flower import server_app

app = (
    server_app.app
)  # the ServerApp installed at the hub; an assignment, because Flower reads this file as text
