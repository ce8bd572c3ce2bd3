import { todos } from '../lib/database'
import { Todos } from './todos'

// The list is of now, not of the time of the build.
export const dynamic = 'force-dynamic'

export default async function Page() {
  return (
    <main>
      <h1>Todos</h1>
      <Todos
        initial={await todos()}
        // Browsers get the token of a role that may see what anybody may see. A real app makes one for each user.
        url={process.env.REALTIME_URL ?? 'http://localhost:4000'}
        token={process.env.REALTIME_TOKEN ?? ''}
      />
    </main>
  )
}
